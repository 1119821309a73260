"""Rules of serving: placement, residency, flips, proof, readiness, memory and retention."""
