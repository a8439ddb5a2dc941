"""Text in, token ids out, and back as the tokens come. It knows no model, no torch and no request."""
