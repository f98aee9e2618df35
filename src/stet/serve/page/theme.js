// A classic script in the head: it runs before the first paint, so a page that was made dark never
// flashes white. Storage may be forbidden; then the choice lasts as long as the page.
(() => {
  const NAMES = ["auto", "light", "dark"];
  const SIGNS = { auto: "◐ auto", light: "○ light", dark: "● dark" };
  const LABELS = {
    auto: "Colours: as the system has them",
    light: "Colours: light",
    dark: "Colours: dark",
  };
  let theme = "auto";
  try {
    theme = localStorage.getItem("stet-theme") ?? "auto";
  } catch {}
  function apply(name) {
    theme = NAMES.includes(name) ? name : "auto";
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = SIGNS[theme];
      button.setAttribute("aria-label", LABELS[theme]);
    }
  }
  apply(theme);
  document.addEventListener("DOMContentLoaded", () => {
    apply(theme);
    document.getElementById("theme").addEventListener("click", () => {
      apply(NAMES[(NAMES.indexOf(theme) + 1) % NAMES.length]);
      try {
        localStorage.setItem("stet-theme", theme);
      } catch {}
    });
  });
})();
