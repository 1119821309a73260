"""The console. `state`, `dispatch` and everything they import know no Textual; `app` does."""
