"""The pruner: channel graph, methods, budgets, allocation, surgery, recovery and proof."""
