"""What each step of a plan does: read its inputs, call one module, write."""
