"""What chaos, soak and overload share."""
