"""From weights to the deploy graph, and from the graph to engines."""
