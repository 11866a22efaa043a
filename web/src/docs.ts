/** The interactive documentation: Swagger UI from this server, so that it works without the Internet. */

import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";
import { key, readAddress } from "./key";

readAddress();

SwaggerUI({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  validatorUrl: null,
  requestInterceptor(request) {
    if (key()) request.headers["X-API-Key"] = key();
    return request;
  },
});
