"""The console, from `app` down to `text`. Only `app`, `screens`, `actions`, `widgets` and the driver use Textual."""
