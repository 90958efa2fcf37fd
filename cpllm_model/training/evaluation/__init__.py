"""How good a model is: a model and held-out items in, figures with intervals, plots and a page out."""
