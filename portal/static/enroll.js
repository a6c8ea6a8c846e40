// Reads the token from the part of the address that browsers send to nobody, clears the address
// bar, and puts the token into the form that a person sends by pressing the button. Scanners that
// run scripts change nothing: nothing is sent from here.
"use strict";
(function () {
  const field = document.getElementById("token");
  const paste = document.getElementById("paste");
  const ready = document.getElementById("ready");
  const needs = document.getElementById("needs");
  const without = document.getElementById("without");

  function readLink() {
    const found = /^#t=([A-Za-z0-9_.-]{20,4096})$/.exec(window.location.hash);
    if (!found) {
      return;
    }
    window.history.replaceState(null, "", window.location.pathname);
    field.value = found[1];
    paste.hidden = true;
    without.hidden = true;
    ready.hidden = false;
    needs.hidden = false;
  }

  readLink();
  window.addEventListener("hashchange", readLink);
})();
