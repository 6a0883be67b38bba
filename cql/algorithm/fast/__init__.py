"""Optional speed: each piece is compared with the plain form by a test."""
