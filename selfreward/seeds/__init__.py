"""Data that people made, on which policy 0 is tuned: answers (IFT), and what they thought of answers (EFT)."""
