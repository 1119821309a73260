"""The gate: decides whether an action is done, asked about or refused, and knows which frames were seen."""
