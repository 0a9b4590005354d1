"""The proof of the techniques: what they reach on MNIST and CIFAR-10, beside other tools."""
