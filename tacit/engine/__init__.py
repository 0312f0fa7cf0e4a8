from tacit.engine.method import Method, Step
from tacit.engine.recipe import DINORecipe, Recipe
from tacit.engine.restoring import restoring_signals
from tacit.engine.schedules import Progress

__all__ = ["DINORecipe", "Method", "Progress", "Recipe", "Step", "restoring_signals"]
