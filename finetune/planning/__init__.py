"""What a plan will take, told before any of it has run: time, memory, disk."""
