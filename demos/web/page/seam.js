// The seam between before and after: a slider for the keyboard, and the picture itself for mouse and finger.

export function seam(stage, slider) {
  const set = (percent) => {
    slider.value = percent;
    stage.style.setProperty("--seam", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${slider.value} % before`);
  };
  const at = (event) => {
    const box = stage.getBoundingClientRect();
    set(Math.round((100 * (event.clientX - box.left)) / box.width));
  };
  slider.addEventListener("input", () => set(slider.value));
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    stage.setPointerCapture(event.pointerId);
    at(event);
  });
  stage.addEventListener("pointermove", (event) => stage.hasPointerCapture(event.pointerId) && at(event));
  set(slider.value);
}
