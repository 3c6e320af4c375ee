# The C sources that licorne builds on and does not carry:
#
#   libev   LIBEV_SOURCE, the directory of ev.c: server/net/loop.c compiles it in with a configuration of its own
#   llhttp  the target `llhttp`: the system's library if it is 9 or newer, else built here from LLHTTP_SOURCE
#
#   zlib    the target ZLIB::ZLIB, the system's headers: for WebSocket's permessage-deflate; the library is found at run time
#
# Neither of the first two publishes its C sources where pip can get them, but packages on PyPI carry them whole. pip finds those by name
# and checks their hash. What was fetched lies in LICORNE_DEPENDENCIES, which all build trees of a checkout share, so
# that it is downloaded once. Without network: -DLIBEV_SOURCE=... -DLLHTTP_SOURCE=...

set(LIBEV_SOURCE "" CACHE PATH "libev 4.33's sources (the directory of ev.c); empty: fetched with pip")
set(LLHTTP_SOURCE "" CACHE PATH "llhttp 9's generated sources (include/, src/); empty: the system's, else fetched with pip")
set(LICORNE_DEPENDENCIES "${CMAKE_SOURCE_DIR}/build/dependencies" CACHE PATH "Where fetched sources are kept")
option(LICORNE_SYSTEM_LLHTTP "Use the system's llhttp where it is new enough" ON)

# Sets `result` to a command that is pip, or ends the configuration.
function(find_pip result)
  foreach(python "${Python_EXECUTABLE}" "${CMAKE_SOURCE_DIR}/.venv/bin/python" python3)
    if(NOT python STREQUAL "")
      execute_process(COMMAND ${python} -m pip --version RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
      if(NOT failed)
        set(${result} ${python} -m pip PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
  message(FATAL_ERROR "pip is needed to fetch C sources and was not found. Install it (Debian, Ubuntu: "
                      "apt-get install python3-pip), run `make setup`, or give -DLIBEV_SOURCE=DIR -DLLHTTP_SOURCE=DIR.")
endfunction()

# pip insists on asking a source distribution for its metadata, for which it would install the package's build
# requirements (Cython and others, minutes) and run its setup.py. cmake/unpack_only stands in for setuptools and answers
# with the metadata that is in the archive, so that pip downloads, checks and stops there.
function(download_sdist name version sha256)
  find_pip(pip)
  set(requirements "${LICORNE_DEPENDENCIES}/${name}.txt")
  file(WRITE "${requirements}" "${name}==${version} --hash=sha256:${sha256}\n")
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env "PYTHONPATH=${CMAKE_SOURCE_DIR}/cmake/unpack_only:$ENV{PYTHONPATH}"
            ${pip} download --quiet --disable-pip-version-check --no-deps --no-binary :all: --no-build-isolation
            --require-hashes --dest "${LICORNE_DEPENDENCIES}" -r "${requirements}"
    RESULT_VARIABLE failed ERROR_VARIABLE errors OUTPUT_QUIET)
  if(failed)
    message(FATAL_ERROR "pip could not fetch ${name} ${version}, which carries C sources that licorne is built from:\n"
                        "${errors}\nWithout network, give -DLIBEV_SOURCE=DIR and -DLLHTTP_SOURCE=DIR.")
  endif()
endfunction()

# Sets `result` to the directory `inside` of the source distribution, which is fetched if it is not there yet.
function(fetch_source result name version sha256 inside)
  set(source "${LICORNE_DEPENDENCIES}/${name}-${version}")
  file(MAKE_DIRECTORY "${LICORNE_DEPENDENCIES}")
  file(LOCK "${LICORNE_DEPENDENCIES}" DIRECTORY GUARD FUNCTION TIMEOUT 600)
  if(NOT EXISTS "${source}/${inside}")
    message(STATUS "Fetching ${name} ${version} for ${inside}")
    download_sdist(${name} ${version} ${sha256})
    file(ARCHIVE_EXTRACT INPUT "${source}.tar.gz" DESTINATION "${LICORNE_DEPENDENCIES}/unpacking"
         PATTERNS "${name}-${version}/${inside}/*")
    file(RENAME "${LICORNE_DEPENDENCIES}/unpacking/${name}-${version}" "${source}")
    file(REMOVE_RECURSE "${LICORNE_DEPENDENCIES}/unpacking")
  endif()
  set(${result} "${source}/${inside}" PARENT_SCOPE)
endfunction()

# --- libev --------------------------------------------------------------------------------------------------------

if(LIBEV_SOURCE STREQUAL "")
  fetch_source(LIBEV_SOURCE gevent 25.9.1 adf9cd552de44a4e6754c51ff2e78d9193b7fa6eab123db9578a210e657235dd deps/libev)
endif()
if(NOT EXISTS "${LIBEV_SOURCE}/ev.c")
  message(FATAL_ERROR "LIBEV_SOURCE=${LIBEV_SOURCE} has no ev.c: give the directory of libev 4.33's sources.")
endif()
set(LICORNE_LIBEV_LICENSE "${LIBEV_SOURCE}/LICENSE" CACHE INTERNAL "For the wheel")

# --- llhttp -------------------------------------------------------------------------------------------------------

# Sets LLHTTP_HEADER and LLHTTP_LIBRARY if the system has them, version 9 or newer.
function(find_system_llhttp)
  find_path(LLHTTP_HEADER llhttp.h)
  find_library(LLHTTP_LIBRARY llhttp)
  if(LLHTTP_HEADER AND LLHTTP_LIBRARY)
    file(STRINGS "${LLHTTP_HEADER}/llhttp.h" major REGEX "define LLHTTP_VERSION_MAJOR [0-9]+")
    string(REGEX REPLACE "[^0-9]" "" major "${major}")
    if(major GREATER_EQUAL 9)
      set(system_llhttp TRUE PARENT_SCOPE)
    endif()
  endif()
endfunction()

if(LLHTTP_SOURCE STREQUAL "" AND LICORNE_SYSTEM_LLHTTP)
  find_system_llhttp()
endif()
if(system_llhttp)
  add_library(llhttp INTERFACE)
  target_include_directories(llhttp INTERFACE "${LLHTTP_HEADER}")
  target_link_libraries(llhttp INTERFACE "${LLHTTP_LIBRARY}")
  set(LICORNE_LLHTTP_LICENSE /usr/share/doc/libllhttp-dev/copyright CACHE INTERNAL "For the wheel")
else()
  if(LLHTTP_SOURCE STREQUAL "")
    fetch_source(LLHTTP_SOURCE httptools 0.9.0 d484ebb7e3a3f3597b0f645fbd1b85633674ca808c1f5ba11c2caf7c66f5c8b6
                 vendor/llhttp)
  endif()
  if(NOT EXISTS "${LLHTTP_SOURCE}/include/llhttp.h")
    message(FATAL_ERROR "LLHTTP_SOURCE=${LLHTTP_SOURCE} has no include/llhttp.h: give the directory of llhttp 9's "
                        "generated sources.")
  endif()
  add_library(llhttp STATIC "${LLHTTP_SOURCE}/src/api.c" "${LLHTTP_SOURCE}/src/http.c" "${LLHTTP_SOURCE}/src/llhttp.c")
  target_compile_options(llhttp PRIVATE ${FAT_LTO}) # the unit tests are linked without LTO
  target_include_directories(llhttp SYSTEM PUBLIC "${LLHTTP_SOURCE}/include")
  set(LICORNE_LLHTTP_LICENSE "${LLHTTP_SOURCE}/LICENSE" CACHE INTERNAL "For the wheel")
endif()

# --- zlib ---------------------------------------------------------------------------------------------------------

find_package(ZLIB QUIET)
if(NOT ZLIB_FOUND)
  message(FATAL_ERROR "zlib was not found. Install it (Debian, Ubuntu: apt-get install zlib1g-dev), or run `make setup`.")
endif()
