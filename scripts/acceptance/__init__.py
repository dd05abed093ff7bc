"""The steps of scripts/gpu_acceptance, and what it writes."""
