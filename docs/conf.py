"""Sphinx's configuration. With `pip install ".[cpu,docs]"`: `sphinx-build -W -n docs build/docs`."""

import importlib.metadata

project = "fasthooks"
author = "the fasthooks authors"
release = version = importlib.metadata.version("fasthooks")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"fasthooks {version}"

myst_heading_anchors = 4
nitpick_ignore = [("py:exc", "wandb.Error")]
copybutton_exclude = ".linenos, .gp, .go"

# Docstrings mark code as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures that matter are TensorFlow's, which has no types; the text names units and kinds
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Keys", "params_style")]


def tidy_signature(app, what, name, obj, options, signature, annotation):
    """Compiled methods show their `self`; TensorFlow's default that is no value has no name."""
    for ugly, tidy in (("(self, ", "("), ("(self)", "()"), ("<object object>", "USE_DEFAULT")):
        signature = signature and signature.replace(ugly, tidy)
    return signature, annotation


def setup(app):
    app.connect("autodoc-process-signature", tidy_signature)
