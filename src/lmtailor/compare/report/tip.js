// A text where the pointer, a finger or the focus is. Without this script the page lacks nothing else.
(() => {
  const tip = document.getElementById("tip");
  const show = (event) => {
    const mark = event.target.closest?.("[data-tip]");
    if (!mark) { tip.hidden = true; return; }
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const x = event.clientX ?? box.left + box.width / 2, y = event.clientY ?? box.top;
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - own.width - 8))}px`;
    tip.style.top = `${y - own.height - 12 < 4 ? y + 18 : y - own.height - 12}px`;
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
