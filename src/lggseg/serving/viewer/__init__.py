"""The page that `lggseg view` serves: NiiVue and plain ES modules, no build step."""
