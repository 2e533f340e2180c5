// Formulas that pymdownx.arithmatex marked; a mistake in one throws, and leaves its TeX to be read.
document.querySelectorAll(".arithmatex").forEach((formula) => {
  const tex = formula.textContent.trim();
  katex.render(tex.slice(2, -2), formula, { displayMode: tex.startsWith("\\[") });
});
