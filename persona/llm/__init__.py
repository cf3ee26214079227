"""Language models behind one door: load them, ask them, and measure the loss of their answers."""
