"""Whether the windows of pipelines/flights are exact: the data set, its loader, the instances, and the comparison."""
