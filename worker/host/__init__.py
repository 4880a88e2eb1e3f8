"""Facts about this machine: GPUs, driver, disk, scheduler. No torch."""
