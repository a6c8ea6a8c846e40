"""The world's servers and the ground truth behind them; imports nothing of the other packages."""
