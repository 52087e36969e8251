"""The objects of the cluster and the rules that they must keep. Pure: values in, values out."""
