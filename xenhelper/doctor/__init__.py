"""What is wrong with a host, found by looking, each with its remedy."""
