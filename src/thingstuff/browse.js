// A picture is shown when it has one of the chosen classes and one of the chosen findings; where none is chosen, all do.
"use strict";
const buttons = [...document.querySelectorAll(".filter button[aria-pressed]")];
const cards = [...document.querySelectorAll(".shown")];
const count = document.getElementById("count");
const clear = document.getElementById("clear");
const wall = document.querySelector(".wall");

function chosen(field) {
  return buttons
    .filter((button) => button.ariaPressed === "true" && field in button.dataset)
    .map((button) => button.dataset[field]);
}

function matches(listed, wanted) {
  const has = new Set(listed.split(" "));
  return wanted.length === 0 || wanted.some((value) => has.has(value));
}

function update() {
  const classes = chosen("class");
  const kinds = chosen("kind");
  let visible = 0;
  for (const card of cards) {
    card.hidden = !(matches(card.dataset.classes, classes) && matches(card.dataset.kinds, kinds));
    visible += card.hidden ? 0 : 1;
  }
  const all = classes.length + kinds.length === 0;
  count.textContent = all ? `${cards.length} pictures` : `${visible} of ${cards.length} pictures`;
  clear.hidden = all;
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    button.ariaPressed = button.ariaPressed === "true" ? "false" : "true";
    update();
  });
}
clear?.addEventListener("click", () => {
  for (const button of buttons) button.ariaPressed = "false";
  update();
});
document.getElementById("labels")?.addEventListener("change", (event) => {
  wall.classList.toggle("bare", !event.target.checked);
});
