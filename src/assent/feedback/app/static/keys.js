"use strict";
// Keys press the buttons and links of the page. Without this script everything works with the mouse.
(() => {
  const form = document.getElementById("answer");
  let sent = false;
  if (form) {
    form.addEventListener("submit", (event) => {
      if (sent) event.preventDefault(); // one answer for one page, however often a key is pressed
      sent = true;
    });
  }
  const ranks = form ? [...form.querySelectorAll("[data-rank]")] : [];
  let last = 0, ties = false;

  const missing = document.getElementById("missing");

  function isIncomplete() {
    const without = ranks.filter((one) => !one.value).map((one) => one.dataset.rank);
    if (missing) missing.textContent = without.length ? `No rank yet: answer ${without.join(", ")}` : "";
    return without.length > 0;
  }

  function rank(key) {
    if (key === "Backspace") {
      ranks.forEach((field) => { field.value = ""; });
      last = 0; ties = false;
      return true;
    }
    if (key === "=") { ties = last > 0; return true; }
    const field = ranks.find((one) => one.dataset.rank === key);
    if (!field) return false;
    if (field.value) return true;
    if (!ties) last = 1 + ranks.filter((one) => one.value).length;
    ties = false;
    field.value = String(last);
    return true;
  }

  const prompt = document.querySelector(".prompt");
  const turns = prompt ? prompt.querySelectorAll(".turn") : [];
  if (turns.length > 1) prompt.scrollTop = turns[turns.length - 1].offsetTop; // what is answered, not how it began
  const guidelines = document.querySelector(".guidelines details");
  if (guidelines) { // closed once, they stay closed on the next items, until they change
    const text = guidelines.textContent;
    if (sessionStorage.getItem("closed guidelines") === text) guidelines.open = false;
    guidelines.addEventListener("toggle", () => {
      if (guidelines.open) sessionStorage.removeItem("closed guidelines");
      else sessionStorage.setItem("closed guidelines", text);
    });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const typing = event.target.matches("textarea, input:not([type=hidden])");
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (typing) return;
    if (event.key === "c") {
      const comment = document.querySelector("textarea[name=comment]");
      if (comment) { comment.focus(); event.preventDefault(); }
      return;
    }
    if (ranks.length && rank(event.key)) { event.preventDefault(); return; }
    if (event.key === "Enter" && event.target.matches("button, a, summary")) return; // Enter presses what has the focus
    if (event.key === "Enter" && ranks.length && isIncomplete()) return; // the browser would move the keys into a field
    const found = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (found) { event.preventDefault(); found.click(); }
  });
})();
