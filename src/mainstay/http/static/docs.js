// Starts Swagger UI on the document that the page names; a file of its own, so that the page's
// content security policy allows no inline script.
window.addEventListener("load", () => {
  const place = document.getElementById("swagger-ui");
  window.SwaggerUIBundle({
    url: place.dataset.document,
    domNode: place,
    deepLinking: true,
    displayRequestDuration: true,
    validatorUrl: null,
  });
});
