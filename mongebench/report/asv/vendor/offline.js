// Browsers let no page that was opened from disk read the files beside it: there, what asv asks for comes from files.js.
"use strict";

if (location.protocol === "file:") {
  $.ajax = ({ url }) => {
    const name = decodeURIComponent(url.split("?")[0]);
    const answer = $.Deferred();
    // Later, as from a server: asv asks before it is ready for the answer.
    setTimeout(() => {
      if (name in window.files) answer.resolve(JSON.parse(window.files[name]));
      else if (name.endsWith(".json")) answer.reject();
      else answer.resolve("");
    });
    return answer;
  };
}
