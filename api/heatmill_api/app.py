"""The factory: wires and registers, nothing else."""

from flask import Flask, Response

from heatmill_api.context import EXTENSION, ApiContext
from heatmill_api.http import access_log, damage, openapi
from heatmill_api.http.auth import KeysFile, install_keys
from heatmill_api.http.problems import register_problems
from heatmill_api.http.routing import new_app, register
from heatmill_api.jobs import lifecycle
from heatmill_api.jobs import list_view as job_list
from heatmill_api.jobs import views as jobs
from heatmill_api.jobs.form import FormRequest
from heatmill_api.results import heatmap_view as pictures
from heatmill_api.results import map_view as maps
from heatmill_api.results import views as results
from heatmill_api.views import catalogue, health, uploads

# Werkzeug's own cap on the parts of a form, and room for other parts beside the files. Where it strikes, files are left
# for the garbage collector, so it must not be what usually counts them.
FORM_PARTS = 1000
FORM_FIELDS = 16


def create_app(context: ApiContext) -> Flask:
    """The API over these collaborators.

    Raises:
        ValueError: The file of API keys is wrong.
    """
    settings = context.settings
    app = new_app()
    app.request_class = FormRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = settings.max_body_bytes
    app.config["MAX_FORM_PARTS"] = max(FORM_PARTS, settings.max_upload_files + FORM_FIELDS)
    app.config["MAX_UPLOAD_FILES"] = settings.max_upload_files
    app.config["MAX_HELD_BYTES"] = settings.max_held_bytes
    app.config["MAX_CONNECTIONS"] = settings.max_connections
    app.config["MAX_CONNECTIONS_OF_ADDRESS"] = settings.max_connections_of_address
    app.extensions[EXTENSION] = context
    access_log.install(app, writes_log=settings.access_log)
    install_keys(app, KeysFile(settings.api_keys_file))
    register_problems(app)
    damage.install(app)
    for module in (jobs, lifecycle, job_list, results, pictures, maps, uploads, catalogue, health):
        register(app, module.api)
    openapi.serve_document(app)
    app.after_request(_never_guess_types)
    return app


def _never_guess_types(response: Response) -> Response:
    """A caller's bytes must not become a page."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
