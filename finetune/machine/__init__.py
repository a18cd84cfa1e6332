"""What this machine is and can do: hardware, processes, rates, and how much a model needs of it."""
