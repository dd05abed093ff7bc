"""What the simulation raises when the code under test makes a mistake that real hardware would forgive."""

from __future__ import annotations


class SimulationError(AssertionError):
    """A mistake in the code under test, or something that the simulation does not know.

    No CUDA error code: on real hardware it would go unnoticed, or spoil memory.
    """


class CudaFailure(Exception):
    """Carries an error code out of a simulated call; never leaves the simulation."""

    def __init__(self, error: object) -> None:
        super().__init__(str(error))
        self.error = error
