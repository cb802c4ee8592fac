"""The commands of `timesformer-hf`, a module each: `add_parser` describes it, `run` does it."""
