// Two arms are chosen by name; without this script every pair is shown.
(function () {
  "use strict";
  const choice = document.getElementById("pair-choice");
  if (!choice) return;
  const pairs = Array.from(document.querySelectorAll(".pair"));
  const first = document.getElementById("pair-first");
  const other = document.getElementById("pair-other");
  const none = document.getElementById("pair-none");
  function show() {
    const wanted = [first.value, other.value].sort().join();
    let shown = 0;
    for (const pair of pairs) {
      const here = [pair.dataset.first, pair.dataset.other].sort().join() === wanted;
      pair.hidden = !here;
      shown += here;
    }
    none.textContent = shown ? "" : "These two are not compared on this page.";
  }
  first.value = pairs[0].dataset.first;
  other.value = pairs[0].dataset.other;
  first.addEventListener("change", show);
  other.addEventListener("change", show);
  choice.hidden = false;
  show();
})();
