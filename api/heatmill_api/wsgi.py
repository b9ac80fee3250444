"""What gunicorn serves: `gunicorn -c python:heatmill_api.gunicorn_conf -b 127.0.0.1:8000 heatmill_api.wsgi:app`."""

from heatmill.catalogue.catalogue import load_catalogue
from heatmill.coordination.job_store import open_state
from heatmill.coordination.redis_address import check_server
from heatmill.coordination.rings import Rings
from heatmill.coordination.task_queue import Dispatcher, celery_app
from heatmill.logs import configure_logs
from heatmill.settings import Settings
from heatmill.storage.bucket import open_storage
from heatmill_api.app import create_app
from heatmill_api.context import ApiContext

configure_logs()
settings = Settings()
check_server(settings.redis_url)
# A request waits for several answers, of a Redis that hangs too.
REDIS_SECONDS = 3.0
state = open_state(settings.redis_url, REDIS_SECONDS)
app = create_app(
    ApiContext(
        storage=open_storage(settings),
        state=state,
        dispatcher=Dispatcher(celery_app(settings, "api", REDIS_SECONDS), Rings(state.client)),
        catalogue=load_catalogue(settings.models_file, settings.methods_file),
        settings=settings,
    )
)
