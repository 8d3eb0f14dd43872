"""Compiled classes that are nobody's to use: made by `__new__` alone, or called with anything, they do not end the process."""

import apart

PROGRAM = """if True:
    import faulthandler, importlib, pkgutil
    import fasthooks
    faulthandler.enable()
    fasthooks.MonitoredSession, fasthooks.patch, fasthooks.SaveOnSignalHook
    made = 0
    names = [module.name for module in pkgutil.walk_packages(fasthooks.__path__, "fasthooks.")]
    for module in [importlib.import_module(name) for name in names if "._" in name and not name.endswith("__")]:
        for cls in vars(module).values():
            if not (isinstance(cls, type) and cls.__module__ == module.__name__) or issubclass(cls, Exception):
                continue
            print(cls, flush=True)
            try:
                one = cls.__new__(cls)
            except TypeError:
                continue
            made += 1
            for name in dir(one):
                if name in ("__class__", "__init_subclass__", "__subclasshook__", "__new__"):
                    continue
                try:
                    value = getattr(one, name)
                except Exception:
                    continue
                for count in range(5) if callable(value) else ():
                    for odd in (None, 1):
                        try:
                            value(*[odd] * count)
                        except Exception:
                            pass
            for count in range(5):
                try:
                    cls(*[None] * count)
                except Exception:
                    pass
    print("made", made)
"""


def test_made_without_arguments():
    done = apart.run(PROGRAM, timeout=120)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 10
