"""The stream: a pure core (`rows`, `latest`, `protocol`, `hub`) and its IO (`tail`, `endpoint`)."""
