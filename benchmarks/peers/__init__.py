"""Other methods of anomaly detection, built on the same teacher weights, to be measured beside CFRG.

anomalib needs torchvision, which goes with a torch of its own; so each method is written from its paper here, one file
a method, which names the equations that it follows and says where it departs from them.
"""
