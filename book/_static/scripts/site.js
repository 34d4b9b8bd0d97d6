// Let the keyboard scroll what is wider than the page.
function makeScrollable() {
  for (const box of document.querySelectorAll(".formula, .map-scroll, .table-scroll, table.dataframe")) {
    if (box.scrollWidth > box.clientWidth) {
      box.tabIndex = 0;
    } else {
      box.removeAttribute("tabindex");
    }
  }
}
addEventListener("load", makeScrollable);
addEventListener("resize", makeScrollable);
