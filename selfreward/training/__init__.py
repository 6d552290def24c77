"""DPO and supervised tuning with LoRA through trl; the only package that imports it."""
