"""Speed of bundles against baselines, measured in turns in the same run on this machine."""
