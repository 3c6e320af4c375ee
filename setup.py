"""Builds the package by driving CMake, which alone knows the sources: see CMakeLists.txt.

The wheel gets three things that setuptools would not know of: the executable `licorne` (installed beside python), the
extension `licorne._core`, and, where the system has it, jemalloc's shared library, with the licences of all they carry.

    LICORNE_CMAKE_ARGS   more arguments for CMake's configuration, for example -DLIBEV_SOURCE=DIR
    LICORNE_BUILD_DIR    where CMake builds; kept between builds. Default: build/<SOABI of the Python>
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

ROOT = pathlib.Path(__file__).resolve().parent
BUILD = ROOT / (os.environ.get("LICORNE_BUILD_DIR") or f"build/{sysconfig.get_config_var('SOABI')}")
JEMALLOC = "libjemalloc.so.2"


def version() -> str:
    return re.search(r'LICORNE_VERSION "(.+)"', (ROOT / "config/version.h").read_text()).group(1)


def require(present: object, what: str, package: str) -> None:
    if not present:
        sys.exit(f"licorne cannot be built: {what} is missing. Debian, Ubuntu: apt-get install {package}")


def check_tools() -> None:
    compiler = shlex.split(os.environ.get("CC", ""))[:1] or ["cc", "gcc", "clang"]
    require(any(map(shutil.which, compiler)), "a C compiler", "gcc libc6-dev")
    require(shutil.which("cmake"), "CMake, 3.25 or newer,", "cmake")
    require(shutil.which("ninja") or shutil.which("make"), "Ninja", "ninja-build")
    header = pathlib.Path(sysconfig.get_path("include"), "Python.h")
    require(header.exists(), f"{header}", f"python{sys.version_info[0]}.{sys.version_info[1]}-dev")


def build() -> dict[str, str]:
    """Configures and builds; returns the cache's variables."""
    check_tools()
    configure = ["cmake", "-S", ROOT, "-B", BUILD, f"-DPython_EXECUTABLE={sys.executable}"]
    if not (BUILD / "CMakeCache.txt").exists() and shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    try:
        subprocess.run([*configure, *shlex.split(os.environ.get("LICORNE_CMAKE_ARGS", ""))], check=True)
        subprocess.run(["cmake", "--build", BUILD, "--parallel", "--target", "package"], check=True)
    except subprocess.CalledProcessError as error:
        raise SetupError(f"licorne cannot be built: CMake failed (its messages are above): {error}") from None
    lines = (BUILD / "CMakeCache.txt").read_text().splitlines()
    return {m[1]: m[2] for m in (re.match(r"(\w+):\w+=(.*)", line) for line in lines) if m}


def system_jemalloc() -> pathlib.Path | None:
    """The system's library, by what the dynamic linker knows."""
    ldconfig = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    known = subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout if ldconfig else ""
    paths = (pathlib.Path(line.split("=> ")[1]) for line in known.splitlines() if line.strip().startswith(JEMALLOC))
    return next((path for path in paths if path.exists()), None)


def carried_licenses(cache: dict[str, str]) -> dict[str, pathlib.Path]:
    """Whose code is in the wheel, and the licence file of each."""
    return {
        "libev": pathlib.Path(cache["LICORNE_LIBEV_LICENSE"]),
        "llhttp": pathlib.Path(cache["LICORNE_LLHTTP_LICENSE"]),
        "jemalloc": pathlib.Path("/usr/share/doc/libjemalloc2/copyright"),
    }


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


class BuildPackage(build_py):
    """Starts from an empty directory: what left the sources must not come back from an earlier build."""

    def run(self):
        shutil.rmtree(pathlib.Path(self.build_lib, "licorne"), ignore_errors=True)
        super().run()


class BuildExtension(build_ext):
    """Puts into the package what CMake built, and what that needs where it is installed."""

    def run(self):
        cache = build()
        package = pathlib.Path(self.build_lib, "licorne")
        copy(BUILD / self.get_ext_filename("_core"), package / self.get_ext_filename("_core"))
        jemalloc = system_jemalloc()
        if jemalloc:
            copy(jemalloc.resolve(), package / "_lib" / JEMALLOC)
        for name, license_file in carried_licenses(cache).items():
            if license_file.exists() and (jemalloc or name != "jemalloc"):
                copy(license_file, package / "_licenses" / f"{name}.txt")


class BuildExecutable(Distribution().get_command_class("build_scripts")):
    """setuptools takes scripts for text; this one is a program."""

    def copy_scripts(self):
        target = pathlib.Path(self.build_dir, "licorne")
        copy(BUILD / "licorne", target)
        return [str(target)], [str(target)]


class BinaryDistribution(Distribution):
    def has_ext_modules(self):
        return True


(ROOT / "build").mkdir(exist_ok=True)
setup(
    version=version(),
    distclass=BinaryDistribution,
    ext_modules=[Extension("licorne._core", [])],
    scripts=["licorne"],
    cmdclass={"build_py": BuildPackage, "build_ext": BuildExtension, "build_scripts": BuildExecutable},
    options={"build": {"build_base": "build/setuptools"}, "egg_info": {"egg_base": "build"}},
)
