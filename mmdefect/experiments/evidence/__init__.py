"""What a run proves: counts of each test image, and pages, figures and tables made from them."""
