"""What runs on a compute node, inside the container: the loop, its phases and their launch."""
