"""How the models of ``intarsia.shipped`` are made from runs."""
