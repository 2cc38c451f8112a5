// The first script, for every browser: says what is missing here, in words, before anything modern is tried.
"use strict";
(function () {
  var simd = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);
  var missing = "";
  if (location.protocol === "file:") {
    missing = "This page needs a web server, even a small one: run “python -m http.server” in this folder, then open http://localhost:8000/";
  } else if (typeof WebAssembly !== "object" || !WebAssembly.validate(simd)) {
    missing = "This browser has no WebAssembly with SIMD, or it is switched off: use one of the last years (Chrome 91, Firefox 89, Safari 16.4 or newer).";
  } else if (!("noModule" in document.createElement("script")) || !window.createImageBitmap) {
    missing = "This browser is too old for this page: use Chrome 91, Firefox 114, Safari 16.4 or newer.";
  }
  function tell(text) {
    document.getElementById("notice").textContent = text;
    document.getElementById("hint").textContent = "";
  }
  window.edgekitMissing = missing;
  if (missing) tell(missing);
  else window.addEventListener("error", function (event) {
    if (event.target.tagName === "SCRIPT") tell("A script of this page cannot be loaded: copy the whole folder again.");
  }, true);
})();
