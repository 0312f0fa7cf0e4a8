from tacit.engine.clips import ClipRecipe
from tacit.engine.method import Method, Step
from tacit.engine.recipe import DINORecipe, Recipe, SoundRecipe
from tacit.engine.restoring import restoring_signals
from tacit.engine.schedules import Progress

__all__ = ["ClipRecipe", "DINORecipe", "Method", "Progress", "Recipe", "SoundRecipe", "Step", "restoring_signals"]
