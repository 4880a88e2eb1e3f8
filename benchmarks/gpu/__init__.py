"""What this project does on this machine's GPU, in one command: `make gpu`."""
