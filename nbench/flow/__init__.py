"""FlowModel: the one interface to a flow-matching text-to-image model, and sampling over it."""
