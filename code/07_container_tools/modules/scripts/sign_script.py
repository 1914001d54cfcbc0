"""Sign a text by HMAC-SHA256. The key comes as a Dagger secret, in the environment variable KEY."""

import hashlib
import hmac
import json
import os
import sys
from pathlib import Path

given = json.loads(Path(sys.argv[1]).read_text())
signature = hmac.new(os.environ["KEY"].encode(), given["body"].encode(), hashlib.sha256).hexdigest()
print(json.dumps({"signature": signature}))
